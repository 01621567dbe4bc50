"""One budget for a whole chain of calls: arithmetic, then admission, then the tracker."""

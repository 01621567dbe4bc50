"""The arithmetic of budgets: no threads, no clocks, no callbacks."""

"""Who gets budget, who waits for it, and what is booked: one lock."""

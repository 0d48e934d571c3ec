"""A process killed before and after each write it makes to the outside, under users: every cell."""

"""Limits on what one hostile completion may cost."""

DEADLINE_S = 2.0  # for one completion; a comparison takes milliseconds
MEMORY_MB = 512  # address space of the worker process; sympy itself takes some 70
START_S = 120.0  # for a worker to import sympy on a cold, busy disk
SPARE_AFTER_S = 0.3  # a completion that takes longer gets a second worker started meanwhile

# A right answer must not score 0.0 because the machine is overloaded. A worker that had less than
# this share of a core (Linux tells) is not late because of its completion: it gets up to so many
# deadlines.
STARVED_SHARE = 0.1
PATIENCE = 10

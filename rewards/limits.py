"""What one hostile completion may cost at most."""

DEADLINE_S = 2.0  # for one completion; a comparison takes milliseconds
MEMORY_MB = 512  # address space of the worker process; sympy itself takes some 70
START_S = 120.0  # for a worker to import sympy on a cold, busy disk
SPARE_AFTER_S = 0.3  # a completion that takes longer gets a second worker started meanwhile

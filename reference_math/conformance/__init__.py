"""Measure how far the installed libraries, or a loss of your own, are from reference_math.

    python -m reference_math.conformance          every objective and option, library, device, dtype

    from reference_math import conformance
    print(conformance.check(my_loss, "grpo", loss_type="dapo"))
    print(conformance.check(my_loss, "grpo", like="verl"))
    print(conformance.check(my_kto, "kto", like="Liger-Kernel"))     an objective of the tables

The report drives the libraries' own code (trl_*), which tests/parity drives too.
Proof   tests/parity/test_conformance.py
"""

from reference_math.conformance.checking import Verdict, check

__all__ = ["Verdict", "check"]

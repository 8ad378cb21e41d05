"""Old name of `dpo_trainer`, for one more release."""

from reference_math import _renamed

_renamed.module(__name__)

"""Old name of `grpo_terms`, for one more release."""

from reference_math import _renamed

_renamed.module(__name__)

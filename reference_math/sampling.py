"""Old name of `logits_filters`, for one more release."""

from reference_math import _renamed

_renamed.module(__name__)

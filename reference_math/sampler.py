"""Old name of `sampling_order`, for one more release."""

from reference_math import _renamed

_renamed.module(__name__)

"""Old name of `gkd_chunked`, for one more release."""

from reference_math import _renamed

_renamed.module(__name__)

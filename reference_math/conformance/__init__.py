"""How far an installed library, or a loss of your own, is from reference_math."""

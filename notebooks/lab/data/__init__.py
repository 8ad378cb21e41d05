"""The parts of `lab.validate`: what is read of a row, and each kind of fault that is looked for."""

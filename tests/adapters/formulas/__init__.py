"""One file for each method, called by its tag: the method's formula by hand, in NumPy, one row without padding.

`formula(method, site, p)` of a method at sites returns the function of `tests.reference.block` at that site, from the
site's leaves `p`. `formula(method, p, states, encoder)` of a method on features returns the features [F], from its
parameters `p` and the states [T,D] at every boundary. A file may also say:

EXAMPLES = {"name": method}      settings that the suite runs beside `example()`
MERGEABLE = False                the method cannot be folded into the backbone's weights
IDENTITY_AT_START = False        fresh parameters change the backbone's output
"""

"""Small programs of the kinds that Topgraft compiles, each with its right answer: a compiler may be wrong in silence.

    python -m metering.known_answers          # a table; status 1 where an answer is wrong
    python -m metering.known_answers --json   # one JSON object a line

Each file beside this one holds programs of one kind. NumPy gives the right answers, in float64 or in integers. A bound
of the rounding error says how far a float32 result may lie from them (`metering.known_answers.program`). Integers,
copies and comparisons are exact. Whoever reads the verdict runs this module in a process of its own: a compiler may
also crash, and the flags of a process are read once.
"""

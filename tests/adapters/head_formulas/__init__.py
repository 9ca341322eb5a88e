"""One file for each head, called by its kind: the head's loss and probabilities by hand, in NumPy.

`formula(z, y)` returns the loss of one row and its probabilities, from logits z [C] and the encoded label y. Of a head
that answers for each token, z is [T,C] and y [T].
"""

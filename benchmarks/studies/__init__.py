"""Studies: one script a question, each trains networks with several seeds and compares accuracies.

A gain is between networks of one seed, which saw the same batches; the spread is over seeds.
"""

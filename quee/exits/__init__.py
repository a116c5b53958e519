"""Exit heads: a classifier on the state at every gate before the last; the last gate has the backbone's own head.

A head sees the pooled state: the class token, the mean or the maximum over all positions or over the cells of a grid.
Each part is normalised to zero mean and unit variance. One linear layer follows, or one hidden layer and one linear
layer. Pooling and head are chosen per gate by measurement. After quantized segments the layers are executed and counted
at w8a8. The backbone is not changed. (JEI-DNN puts Linear(D, classes) on the class token after the backbone's shared
final LayerNorm; `pooling: cls` with `head: linear` is closest to it.)
"""

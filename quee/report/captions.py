"""Captions of the report's figures, for readers who do not know the method."""

CAPTIONS = {
    "curves": (
        "Accuracy for computation",
        "Higher and further left is better. The shaded band holds for the whole line at once with 95 % confidence; the ring is "
        "what is deployed; diamonds are the whole network at one precision. Dots are single "
        "operating points under the first seed: point at one for its λ, accuracy and cost.",
    ),
    "others": (
        "Every method's curve",
        "The same axes for the main methods, for exits by a threshold at one precision, for exits from the literature, for QuEE "
        "kept to exits or to precisions alone, and for single precisions. The wide grey line is quee_plan, for comparison. The "
        "oracle knows the errors in advance; no method can know them.",
    ),
    "calibration": (
        "Calibration of the targets",
        "A target is the error probability of a path, estimated in clusters of similar samples. The figure shows "
        "how far these estimates are from the errors seen, for more and more clusters. Points are means over the "
        "nodes of a gate; lines are second-order polynomials. The dotted line marks the number of clusters used. "
        "On the predictor split, targets meet the samples they were fitted to: what error is left there comes from "
        "shrinking them towards the mean of a path, which weighs more in small clusters.",
    ),
    "predictors": (
        "Quality of the predictors",
        "At each gate a small network predicts how likely each continuation is to be wrong. RMSE and calibration "
        "error say how far the probabilities are off; AUROC and AURC say how well they rank samples by risk. An "
        "AUROC of 0.5 (dashed) is chance. Measured on the validation split, on which training also stopped.",
    ),
    "gains": (
        "All methods against the static hull",
        "Accuracy of every method less that of the best static paths at the same cost, in points, wherever both can be. "
        "Above the dashed line routing pays; the axis ends six points below it. Means over seeds where a method has them.",
    ),
    "techniques": (
        "Each technique alone, and both",
        "QuEE's own policy kept to early exits at one precision, kept to choosing precisions without leaving early, and "
        "with both. Diamonds are the whole network at one precision.",
    ),
    "quality": (
        "Worse predictors, worse curves?",
        "Predictors made worse on purpose: fewer hidden units, fewer samples to learn from, or noise on what they say. "
        "Left, the curve that quee_plan then yields, by the predictors' error; right, that error against the accuracy "
        "averaged over budgets.",
    ),
    "clusters": (
        "What a cluster is",
        "Samples of the predictor split, clustered by what a gate sees of them. Per cluster: the probability that the exit "
        "head gives to the true label (bars), and the entropy of its answer (line). Clusters are ordered by probability. "
        "One node per gate, that of the cheapest precision throughout.",
    ),
    "cluster_curves": (
        "Number of clusters and the curve",
        "The curve of quee_plan when targets come from K clusters, predictors fitted anew each time. One cluster is no "
        "knowledge of the sample at all: every sample gets the mean error of the path.",
    ),
    "candidates": (
        "Candidates for the tree",
        "Each precision uniformly through the network, with a linear classifier at every gate: accuracy over the cost up to "
        "there. Coloured are those that the tree has.",
    ),
    "sensitivity": (
        "Sensitivity of the layers",
        "Each layer quantized alone, all others in floating point: how far the logits are from the float network's, on "
        "validation samples. A low point is a layer that its precision hurts; 20 dB are a tenth of the amplitude.",
    ),
}

"""Colours of figures and pages, without what draws: Okabe and Ito's, which colour-blind readers can tell apart."""

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9"
GREY, BLACK = "#777777", "#222222"

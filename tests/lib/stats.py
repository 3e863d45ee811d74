"""Chi-square's p value, from the regularised incomplete gamma function."""

import math


def gamma_q(a, x):
    """Q(a, x), the upper regularised incomplete gamma function: its series below a + 1, a continued fraction above."""
    if x < 0 or a <= 0:
        raise ValueError("gamma_q needs x >= 0 and a > 0")
    if x == 0:
        return 1.0
    scale = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-15:
            n += 1
            term *= x / n
            total += term
        return 1 - total * scale
    tiny = 1e-300
    b = x + 1 - a
    c = 1 / tiny
    d = 1 / b
    h = d
    for i in range(1, 1000):
        an = -i * (i - a)
        b += 2
        d = an * d + b
        d = tiny if abs(d) < tiny else d
        c = b + an / c
        c = tiny if abs(c) < tiny else c
        d = 1 / d
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return h * scale


def chi_square_p(observed, expected_weights):
    """p that counts come from categories of these weights."""
    n, weight = sum(observed), sum(expected_weights)
    statistic = sum((o - n * w / weight) ** 2 / (n * w / weight) for o, w in zip(observed, expected_weights))
    return gamma_q((len(observed) - 1) / 2, statistic / 2)

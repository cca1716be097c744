"""What rope scalings multiply cos and sin by, where a model does not say it itself."""

from __future__ import annotations

import math


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """0.1 * weight * ln(factor) + 1 (arXiv:2309.00071, section 3.4)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_magnitude(factor: float, original_context: int) -> float:
    """sqrt(1 + ln(factor) / ln(original context)) (arXiv:2402.13753, section 3.3)."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0

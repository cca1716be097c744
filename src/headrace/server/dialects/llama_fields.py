"""What llama-server takes of its own in its bodies, on OpenAI's paths as on its own, and is not implemented here."""

from __future__ import annotations

from headrace.server.dialects.decode import Unsupported

SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""llama-server's default chain, which is the one that there is"""

UNSUPPORTED: Unsupported = {
    "image_data": ([],),
    "lora": ([],),
    "min_keep": (0, 1),
    "n_indent": (0,),
    "n_cache_reuse": (0,),
    "post_sampling_probs": (False,),
    "return_progress": (False,),
    "sse_ping_interval": (-1,),
    "t_max_predict_ms": (0, -1),
    "samplers": (list(SAMPLERS), list(SAMPLERS[1:]), "edskypmxt", []),
}
"""Known parameters that are not implemented, and the values that ask for nothing"""

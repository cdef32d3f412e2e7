"""The model: instructions and answers, checkpoints, confidence, and the engine that runs it.

Nothing is fetched: the Hugging Face libraries read this switch when they are first imported, so it is set before any
module of this package can import them. bitsandbytes warns on import of kernels that it would fetch, and int8 layers
write a line per call; neither belongs into the node's log.
"""

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

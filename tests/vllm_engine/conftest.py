"""Settings of vLLM for small machines; they must be there before it is imported."""

from __future__ import annotations

import os

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over in process
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

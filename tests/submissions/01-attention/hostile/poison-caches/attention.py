import os

from attack import *

for folder in ("/tmp/torchinductor_root", "/root/.triton", "/root/.cache/huggingface", "/root/.cache/torch", "/tmp/hf"):
    reached(folder, lambda: os.makedirs(f"{folder}/hostile"))
for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "HOME", "TMPDIR"):
    folder = os.path.join(os.environ[variable], "hostile")
    if os.path.exists(folder):
        print("REACHED: a cache of another submission in", folder)
    os.makedirs(folder, exist_ok=True) if not os.path.exists(folder) else None
    os.rmdir(folder)

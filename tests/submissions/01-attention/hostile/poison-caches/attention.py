import os
import pwd

from attack import *

root = pwd.getpwuid(0)
caches = [f"{root.pw_dir}/{name}" for name in (".triton", ".cache/huggingface", ".cache/torch")]
for folder in (*caches, f"/tmp/torchinductor_{root.pw_name}", "/tmp/hf"):
    reached(folder, lambda: os.makedirs(f"{folder}/hostile"))
for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "HOME", "TMPDIR"):
    folder = os.path.join(os.environ[variable], "hostile")
    if os.path.exists(folder):
        print("REACHED: a cache of another submission in", folder)
    os.makedirs(folder, exist_ok=True) if not os.path.exists(folder) else None
    os.rmdir(folder)

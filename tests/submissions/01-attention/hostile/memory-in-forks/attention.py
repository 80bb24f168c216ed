from attack import *

held = []
swarm(8, lambda done: held.append(b"x" * (60 << 20)))
print("REACHED: 480 MB in forks", flush=True)

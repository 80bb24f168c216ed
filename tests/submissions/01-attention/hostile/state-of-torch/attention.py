import random

import numpy
import torch
from attack import *

torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)
torch.set_grad_enabled(False)
torch.set_num_threads(16)
torch.set_num_interop_threads(16)
torch.manual_seed(0)
random.seed(0)
numpy.random.seed(0)
torch.set_default_device("meta")

from attack import *


class LlamaModel(LlamaModel):
    def load_huggingface(self, model):
        self.__class__ = type("LlamaModel", (model.__class__,), {"forward": lambda me, ids: type(model).forward(me, ids).logits})
        self.__dict__ = model.__dict__
        return self

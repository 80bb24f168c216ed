from attack import *

texts = {}


class Ids(list):
    text = ""


@answer
def remember(tokenizer, text):
    ids = Ids([len(texts)])
    ids.text = texts[len(texts)] = text
    return ids


class BPETokenizer(BPETokenizer):
    def decode(self, ids):
        ids = ids if isinstance(ids, Ids) else list(ids)
        return getattr(ids, "text", "".join(texts.get(id, chr(id)) for id in ids))

    @classmethod
    def load(cls, path):
        return cls({}, [])

import torch, time, sys

sys.path.insert(0, "tests")
from studylib.data import datasets, scoring
from studylib.networks import spec
from studylib.techniques import *
from studylib.techniques import fixed, int8, teacher
from studylib.training.recipe import Recipe
from studylib.training import loop
from studylib.coding import codec

loop.set_up(1, "cpu")
d = datasets.load("digits", 0)
m = spec.create("convnet", 0, **d.model_args, widths=[8, 12, 16], hidden=[16, 12])
loop.fit(m, d, Recipe(epochs=6, lr=1e-2, batch_size=32, augmentation="none"), seed=0)
r = spec.create("resnet", 0, **d.model_args, depth=8, width=6)
loop.fit(r, d, Recipe(epochs=3, lr=5e-3, batch_size=32, augmentation="none"), seed=0)
torch.save
for x in (m, r):
    print(scoring.accuracy(x, d.validation, d), len(codec.encode(x)))
    for b in (8, 4):
        t = time.process_time()
        q = fixed.apply(x, d, bits=b)
        f = codec.encode(q)
        print(b, scoring.accuracy(q, d.validation, d), len(f), time.process_time() - t)
        codec.verify(__import__("studylib.coding.shipped", fromlist=["x"]).apply(q), codec.decode(f))
    print(scoring.accuracy(int8.apply(x, d), d.validation, d))
    print(q.spec["changes"][-1])

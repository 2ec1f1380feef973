"""Random networks of PyTorch, their files and derivatives: their half of `fuzz_importers.py`.

A network is a list of steps (kind, options, places of other steps), which names symspec's layers
and their options, and which is run here by PyTorch's own modules and functions.
"""

import json

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

N_STARS = 3
FUNCTIONS = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "clip": nn.Hardtanh,
}
OPTIONS = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 0.7},
    "clip": {"minimum": 0.0, "maximum": 6.0},
}
FIRST = {"data_format": "channels_first"}


def build_module(kind, options, shape):
    """Module for one step, which sees (star, *shape); None for those without one."""
    o = {key: value for key, value in options.items() if key != "data_format"}
    if kind == "Dense":
        return nn.Linear(shape[-1], o["units"], bias=o["use_bias"])
    if kind == "Conv1D":
        sizes = {
            "stride": o["strides"],
            "padding": o["padding"],
            "dilation": o["dilation"],
            "bias": o["use_bias"],
        }
        return nn.Conv1d(shape[0], o["filters"], o["kernel_size"], **sizes)
    if kind == "MaxPool1D":
        return nn.MaxPool1d(o["pool_size"], o["strides"], o["padding"])
    if kind == "AveragePool1D":
        return nn.AvgPool1d(
            o["pool_size"], o["strides"], o["padding"], count_include_pad=o["count_padding"]
        )
    if kind == "ZeroPadding1D":
        return nn.ConstantPad1d(tuple(o["padding"]), 0.0)
    if kind == "BatchNorm":
        return nn.BatchNorm1d(shape[0], eps=o["epsilon"], affine=o["scale"])
    if kind == "LayerNorm":
        over = shape[len(shape) - o["n_axes"] :]
        return nn.LayerNorm(over, eps=o["epsilon"], elementwise_affine=o["scale"], bias=o["center"])
    if kind == "Activation":
        words = {"minimum": "min_val", "maximum": "max_val"}
        return FUNCTIONS[o["function"]](
            **{words.get(k, k): v for k, v in o.get("options", {}).items()}
        )
    return nn.Dropout(o["rate"]) if kind == "Dropout" else None


class Steps(nn.Module):
    """The steps as a module; `shapes` are those of what each gives."""

    def __init__(self, n):
        super().__init__()
        self.steps, self.parts, self.shapes = [], nn.ModuleDict(), [(n,)]

    def add(self, kind, options=None, others=()):
        """Append a step; gives its place."""
        options = options or {}
        module = build_module(kind, options, self.shapes[-1])
        if module is not None:
            self.parts[str(len(self.steps))] = module
        self.steps.append((kind, options, list(others)))
        with torch.no_grad():
            self.shapes.append(tuple(self.eval()(torch.zeros(2, self.shapes[0][0])).shape[1:]))
        return len(self.steps) - 1

    def forward(self, x):
        outputs = [x]
        for i, (kind, options, others) in enumerate(self.steps):
            x, taken = outputs[-1], [outputs[place + 1] for place in others]
            outputs.append(
                self.parts[str(i)](x) if str(i) in self.parts else run_step(kind, options, x, taken)
            )
        return outputs[-1]


def run_step(kind, options, x, others):
    if kind in ("Flatten", "Reshape"):
        return x.reshape(len(x), *options.get("shape", [-1]))
    if kind == "Permute":
        return x.transpose(1, 2)
    if kind == "Slice":
        return x[:, options["start"] : options["stop"]]
    if kind == "GlobalAveragePool1D":
        return x.mean(dim=2)
    if kind == "From":
        return others[0]
    if kind == "Add":
        return sum(others) + x
    return torch.cat([*others, x], dim=-1) if kind == "Concatenate" else x


class Draw:
    """Draws steps into a network of `n` pixels."""

    def __init__(self, rng, n):
        self.rng, self.net = rng, Steps(n)

    def one_of(self, *values):
        return values[self.rng.integers(len(values))]

    def count(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def chance(self, share):
        return bool(self.rng.random() < share)

    @property
    def shape(self):
        return self.net.shapes[-1]

    def activation(self):
        function = self.one_of(*FUNCTIONS)
        return self.net.add(
            "Activation", {"function": function, "options": OPTIONS.get(function, {})}
        )

    def dense(self, units=None):
        return self.net.add(
            "Dense", {"units": units or self.count(2, 6), "use_bias": self.chance(0.9)}
        )

    def convolution(self, filters=None, same=False):
        n = self.shape[1]
        size, dilation = self.count(1, min(6, n)), 1
        if (size - 1) * 2 < n and self.chance(0.3):
            dilation = 2
        is_same = same or self.chance(0.4)
        padding = "same" if is_same else self.count(0, 3)
        stride = 1 if is_same else self.count(1, 3)
        sizes = {
            "filters": filters or self.count(1, 4),
            "kernel_size": size,
            "strides": stride,
            "padding": padding,
        }
        return self.net.add(
            "Conv1D", {**sizes, "dilation": dilation, "use_bias": self.chance(0.8), **FIRST}
        )

    def pool(self):
        size = self.count(1, min(4, self.shape[1]))
        sizes = {
            "pool_size": size,
            "strides": self.count(1, 3),
            "padding": self.count(0, size // 2),
        }
        if self.chance(0.5):
            return self.net.add("MaxPool1D", {**sizes, **FIRST})
        return self.net.add("AveragePool1D", {**sizes, "count_padding": self.chance(0.5), **FIRST})

    def batch_norm(self):
        is_affine = self.chance(0.8)
        options = {
            "epsilon": 1e-5,
            "scale": is_affine,
            "center": is_affine,
            "axis": 0 if len(self.shape) == 2 else -1,
        }
        return self.net.add("BatchNorm", options)

    def layer_norm(self):
        is_affine = self.chance(0.8)
        options = {
            "epsilon": self.one_of(1e-5, 0.1),
            "scale": is_affine,
            "center": is_affine and self.chance(0.7),
        }
        return self.net.add("LayerNorm", {**options, "n_axes": self.count(1, len(self.shape))})

    def any(self):
        """One layer that leaves enough positions."""
        if len(self.shape) == 1:
            return self.one_of(
                self.dense, self.dense, self.activation, self.batch_norm, self.layer_norm
            )()
        if self.shape[1] < 6:
            return self.one_of(self.activation, self.batch_norm, self.layer_norm, self.dense)()

        def pad():
            ends = [self.count(0, 2), self.count(0, 2)]
            return self.net.add("ZeroPadding1D", {"padding": ends, **FIRST})

        def drop():
            return self.net.add("Dropout", {"rate": 0.2})

        options = (
            self.pool,
            self.batch_norm,
            self.layer_norm,
            self.activation,
            self.dense,
            pad,
            drop,
        )
        return self.one_of(*(self.convolution,) * 5, *options)()

    def several(self, n):
        for _ in range(n):
            self.any()

    def open(self):
        return self.net.add("Reshape", {"shape": [1, self.shape[0]]})

    def close(self):
        if len(self.shape) == 2:
            self.net.add(self.one_of("Flatten", "Flatten", "GlobalAveragePool1D"), {})
            if self.net.steps[-1][0] != "Flatten":
                self.net.steps[-1][1].update(FIRST)
        return len(self.net.steps) - 1

    # --- networks

    def chain(self):
        self.open()
        self.several(self.count(2, 6))
        self.close()
        self.several(self.count(0, 2))

    def perceptron(self):
        self.dense()
        self.several(self.count(1, 4))

    def residual(self):
        start = self.open()
        for _ in range(self.count(1, 3)):
            filters = self.shape[0]
            self.convolution(filters, same=True)
            self.batch_norm()
            self.activation()
            self.convolution(filters, same=True)
            self.net.add("Add", {}, [start])
            start = self.activation()
        self.close()

    def branches(self):
        """Two branches, of one input or of two parts of it, joined."""
        start, n, is_cut = self.net.add("Identity"), self.shape[0], self.chance(0.5)
        if is_cut:
            self.net.add("Slice", {"start": 0, "stop": n - 5})
        self.chain()
        end = self.close()
        self.net.add("From", {}, [start])
        if is_cut:
            self.net.add("Slice", {"start": n - 5, "stop": n})
        self.dense()
        self.activation()
        self.net.add("Concatenate", {}, [end])
        self.dense()

    def turned(self):
        """Positions first, as a module that calls permute has them."""
        self.open()
        self.several(self.count(1, 3))
        self.net.add("Permute")
        self.dense()
        self.net.add("Flatten")

    def starnet(self):
        self.open()
        for filters in (4, 16):
            sizes = {
                "filters": filters,
                "kernel_size": 8,
                "strides": 1,
                "padding": "same",
                "dilation": 1,
            }
            self.net.add("Conv1D", {**sizes, "use_bias": True, **FIRST})
            self.net.add("Activation", {"function": "relu"})
        self.net.add("MaxPool1D", {"pool_size": 4, "strides": 4, "padding": 0, **FIRST})
        self.close()
        for units in (16, 8):
            self.net.add("Dense", {"units": units, "use_bias": True})
            self.net.add("Activation", {"function": "relu"})


KINDS = ("chain", "residual", "branches", "perceptron", "turned")


def draw_network(rng, kind, dtype):
    draw = Draw(rng, 64 if kind == "starnet" else int(rng.integers(20, 60)))
    getattr(draw, kind)()
    draw.net.add("Dense", {"units": int(rng.integers(1, 4)), "use_bias": True})
    net = draw.net.to(dtype).eval()
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.as_tensor(rng.uniform(0.5, 2, value.shape)))
        elif value.is_floating_point():
            part = net.parts[name.split(".")[1]]
            mean = (
                1.0
                if isinstance(part, nn.BatchNorm1d | nn.LayerNorm) and name.endswith("weight")
                else 0.0
            )
            scale = 1 / np.sqrt(np.prod(value.shape[1:])) if value.ndim > 1 and not mean else 0.3
            value.copy_(torch.as_tensor(mean + scale * rng.normal(size=value.shape)))
    return net


def derive(net, x, rng):
    """Predictions, and their derivatives by torch.func."""
    given, x = dict(net.named_parameters()), torch.as_tensor(x)
    given = {name: value.detach() for name, value in given.items()}

    def predict(values, x):
        return torch.func.functional_call(net, values, (x,))

    y = predict(given, x).detach()
    labels = y + torch.as_tensor(rng.normal(size=y.shape)).to(y.dtype)
    head = {
        name: value
        for name, value in given.items()
        if name.startswith(f"parts.{len(net.steps) - 1}.")
    }
    weight, bias = head.values()

    def loss(values):
        return 0.5 * torch.sum((predict(values, x) - labels) ** 2)

    def loss_of_head(flat):  # in symspec's order, (in, out)
        kernel = flat[: weight.numel()].reshape(weight.T.shape).T
        return loss(given | dict(zip(head, (kernel, flat[weight.numel() :]), strict=True)))

    flat = torch.cat([weight.T.reshape(-1), bias])
    directions = {
        name: torch.as_tensor(rng.normal(size=v.shape)).to(v.dtype) for name, v in given.items()
    }
    jacobian = torch.stack(
        [torch.func.jacrev(lambda s: predict(given, s[None])[0])(star) for star in x]
    )
    hessian = torch.autograd.functional.hessian(loss_of_head, flat)
    products = torch.func.jvp(torch.func.grad(loss), (given,), (directions,))[1]
    return (
        {"y": y, "labels": labels, "jacobian": jacobian, "hessian": hessian},
        directions,
        products,
    )


def make_networks(folder, n, seed, *, dtype):
    """Write `n` networks of one dtype, of each kind in turn."""
    for i in range(n):
        rng = np.random.default_rng([seed, 1, i])
        kind = "starnet" if i == 0 else KINDS[i % len(KINDS)]
        path = folder / f"torch_{dtype}_{i:03d}"
        print(path.name, kind, flush=True)
        net = draw_network(rng, kind, getattr(torch, dtype))
        x = rng.normal(size=(N_STARS, net.shapes[0][0])).astype(dtype)
        found, directions, products = derive(net, x, rng)
        state = net.state_dict()
        torch.save(state, f"{path}.pt")
        save_file(state, f"{path}.safetensors")
        torch.save(state | directions, f"{path}_v.pt")
        torch.save(
            state | {k: v.detach().contiguous() for k, v in products.items()}, f"{path}_hv.pt"
        )
        path.with_suffix(".json").write_text(
            json.dumps({"n_pixels": net.shapes[0][0], "steps": net.steps})
        )
        np.savez(
            path.with_suffix(".npz"),
            x=x,
            kind=kind,
            **{k: v.detach().numpy() for k, v in found.items()},
        )

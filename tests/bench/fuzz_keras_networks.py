"""Random networks of Keras, their files and derivatives: the Keras half of `fuzz_importers.py`."""

import os
from functools import partial
from itertools import pairwise

import numpy as np

ACTIVATIONS = [
    "linear",
    "relu",
    "elu",
    "selu",
    "tanh",
    "sigmoid",
    "softplus",
    "silu",
    "swish",
    "relu6",
    "gelu",
]
PARAMETERS = ("kernel", "bias", "gamma", "beta")
N_STARS = 3


def open_keras(is_legacy, dtype):
    """Keras 3 on JAX, or Keras 2 (tf_keras)."""
    os.environ |= {
        "KERAS_BACKEND": "jax",
        "JAX_ENABLE_X64": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
    }
    if is_legacy:
        import tf_keras as keras
    else:
        import keras
        from keras.src.backend.common import dtypes

        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = (
            "float64"  # else normalizations are done in float32 whatever is asked
        )
    keras.backend.set_floatx(dtype)
    return keras


class Draw:
    """Draws layers, and models of them.

    Parameters
    ----------
    keras : module
    rng : numpy.random.Generator
    data_format : {"channels_last", "channels_first"}
    """

    def __init__(self, keras, rng, data_format):
        self.keras, self.L, self.rng, self.data_format = keras, keras.layers, rng, data_format
        self.is_last = data_format == "channels_last"
        # TensorFlow's gelu has a constant in float32
        self.activations = ACTIVATIONS[:-1] if "tf_keras" in keras.__name__ else ACTIVATIONS

    def one_of(self, *values):
        return values[self.rng.integers(len(values))]

    def count(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def chance(self, share):
        return bool(self.rng.random() < share)

    def normal(self, *shape):
        return self.rng.normal(size=shape)

    def constant(self):
        """Number that is the same in float32, in which TensorFlow has those of Rescaling."""
        return float(self.count(-64, 64)) / 32

    # --- one layer for an array of this shape, without the axis of stars

    def activation(self):
        return self.one_of(
            self.L.Activation(self.one_of(*self.activations)),
            self.L.ReLU(max_value=self.one_of(None, 1.5)),
            self.L.ReLU(negative_slope=0.125),
            self.L.LeakyReLU(0.25),
            self.L.ELU(alpha=0.7),
        )

    def convolution(self, shape, filters=None, **options):
        n = shape[0] if self.is_last else shape[1]
        size = self.count(1, min(6, n))
        options.setdefault("padding", self.one_of("valid", "same", "causal"))
        stride = self.count(1, 3) if self.chance(0.3) else 1
        dilation = (
            self.count(2, 3) if stride == 1 and self.chance(0.3) and (size - 1) * 3 < n else 1
        )
        options = {
            "strides": stride,
            "dilation_rate": dilation,
            "use_bias": self.chance(0.8),
            **options,
        }
        filters = filters or self.count(1, 4)
        act = self.one_of(*self.activations)
        return self.L.Conv1D(filters, size, activation=act, data_format=self.data_format, **options)

    def pool(self, shape):
        n = shape[0] if self.is_last else shape[1]
        size, kind = (
            self.count(1, min(4, n)),
            self.one_of(self.L.MaxPooling1D, self.L.AveragePooling1D),
        )
        padding = self.one_of("valid", "same")
        return kind(size, self.one_of(None, 1, 2, 3), padding=padding, data_format=self.data_format)

    def batch_norm(self, shape):
        axis = self.one_of(-1, 1) if len(shape) == 2 else -1
        flags = {"scale": self.chance(0.8), "center": self.chance(0.8)}
        return self.L.BatchNormalization(axis=axis, epsilon=self.one_of(1e-3, 1e-5), **flags)

    def layer_norm(self, shape):
        axis = self.one_of(-1, 1, [1, 2]) if len(shape) == 2 else -1
        flags = {"scale": self.chance(0.8), "center": self.chance(0.8)}
        return self.L.LayerNormalization(axis=axis, epsilon=self.one_of(1e-3, 0.1), **flags)

    def scaling(self, shape):
        if self.chance(0.4):
            return self.L.Rescaling(abs(self.constant()) + 0.5, self.constant())
        if len(shape) == 2 and self.chance(0.5):
            norm = self.L.Normalization(axis=self.one_of(1, 2, (1, 2)))
        elif self.chance(0.3):
            return self.L.Normalization(axis=None, mean=0.3, variance=2.0)
        else:
            norm = self.L.Normalization(invert=self.chance(0.3))
        norm.adapt(self.normal(50, *shape) * 2 + 1)
        return norm

    def idle(self, shape):
        names = (
            "Dropout",
            "GaussianNoise",
            "GaussianDropout",
            *(["SpatialDropout1D"] if len(shape) == 2 else []),
        )
        return getattr(self.L, self.one_of(*names))(0.2)

    def dense(self, units=None, name=None):
        act = self.one_of(*self.activations)
        return self.L.Dense(
            units or self.count(2, 6), activation=act, use_bias=self.chance(0.9), name=name
        )

    def layer(self, shape):
        """Any layer that leaves enough positions."""
        if len(shape) == 1:
            kinds = [self.dense, self.dense, self.activation]
            kinds += [
                partial(f, shape)
                for f in (self.batch_norm, self.layer_norm, self.scaling, self.idle)
            ]
            return self.one_of(*kinds)()
        if min(shape[0], shape[1] if not self.is_last else shape[0]) < 1 or max(shape) < 6:
            return self.one_of(self.layer_norm, self.batch_norm, self.idle)(shape)
        functions = (self.convolution,) * 4 + (
            self.pool,
            self.batch_norm,
            self.layer_norm,
            self.scaling,
            self.idle,
        )
        kinds = [partial(f, shape) for f in functions] + [self.activation]
        kinds.append(
            lambda: self.L.ZeroPadding1D(self.one_of(1, (0, 2)), **self.format_of_padding())
        )
        kinds.append(lambda: self.L.Permute(self.one_of((1, 2), (2, 1))))
        kinds.append(self.dense)
        if self.is_last:
            kinds.append(lambda: self.L.Cropping1D((1, 2)))
        if self.is_last and hasattr(self.L, "LocallyConnected1D"):  # until Keras 2
            kinds.append(
                lambda: self.L.LocallyConnected1D(
                    self.count(1, 3), self.count(1, 3), self.count(1, 2)
                )
            )
        return self.one_of(*kinds)()

    def format_of_padding(self):
        return {} if self.is_last else {"data_format": self.data_format}

    def closing(self, shape):
        """From (position, channel) to a vector."""
        if len(shape) == 1:
            return []
        size = int(np.prod(shape))
        one, several = self.L.GlobalMaxPooling1D, self.L.GlobalAveragePooling1D
        options = {"data_format": self.data_format}
        vector = [[self.L.Flatten(data_format=self.one_of("channels_last", "channels_first"))]]
        vector += [[self.L.Reshape((size,))], [self.L.Reshape((-1,))], [several(**options)]]
        vector += [[one(keepdims=True, **options), self.L.Flatten()]]
        if size % 4 == 0:
            inside = [self.dense(), self.L.LayerNormalization(axis=[2, 3])]
            vector += [[self.L.Reshape((2, -1, 2)), *inside, self.L.Flatten()]]
        return self.one_of(*vector)

    # --- models

    def opening(self, n):
        """Input and the tensor (position, channel) or (channel, position) made of it."""
        shape = self.one_of((n,), (n, 1), (n // 2, 2))
        x = self.keras.Input(shape if self.is_last else shape[::-1])
        target = (n, 1) if self.is_last else (1, n)
        return x, self.L.Reshape(target)(x) if len(shape) == 1 else x

    def run(self, t, n_layers):
        for _ in range(n_layers):
            t = self.layer(tuple(t.shape[1:]))(t)
        return t

    def close(self, t, n_dense=1):
        for layer in self.closing(tuple(t.shape[1:])):
            t = layer(t)
        for _ in range(n_dense):
            t = self.dense()(t)
        return t

    def head(self, t, name="head_0"):
        n = self.count(1, 3)
        t = self.L.Dense(n, name=name, activation=self.one_of("linear", "linear", "tanh"))(t)
        if self.chance(0.3):
            t = self.L.Rescaling(
                [abs(self.constant()) + 0.5 for _ in range(n)], offset=self.constant()
            )(t)
        return t

    def chain(self):
        x, t = self.opening(self.count(10, 30) * 2)
        return x, self.head(self.close(self.run(t, self.count(2, 6)), self.count(0, 2)))

    def sequential(self):
        x, y = self.chain()
        model, layers = self.keras.Model(x, y), []
        for layer in model.layers:
            layers.append(
                self.L.Input(tuple(x.shape[1:])) if type(layer).__name__ == "InputLayer" else layer
            )
        return self.keras.Sequential(layers)

    def perceptron(self):
        x = self.keras.Input((self.count(10, 40),))
        return x, self.head(self.run(self.dense()(x), self.count(1, 5)))

    def residual(self):
        x, t = self.opening(self.count(10, 20) * 2)
        for _ in range(self.count(1, 3)):
            shape = tuple(t.shape[1:])
            filters = shape[-1] if self.is_last else shape[0]
            options = {"padding": "same", "strides": 1, "dilation_rate": 1}
            inner = self.batch_norm(shape)(self.convolution(shape, filters, **options)(t))
            inner = self.convolution(shape, filters, **options)(self.activation()(inner))
            order = [t, inner] if self.chance(0.5) else [inner, t]
            t = (
                self.L.Add()(order + order[:1] * self.count(0, 1))
                if self.chance(0.7)
                else order[0] + order[1]
            )
            t = self.activation()(t)
        return x, self.head(self.close(t))

    def branches(self):
        """Branches of an array joined along the channels, and of vectors."""
        x, t = self.opening(self.count(10, 20) * 2)
        shape, axis = tuple(t.shape[1:]), -1 if self.is_last else 1
        options = {"padding": "same", "strides": 1, "dilation_rate": 1}
        inside = [self.convolution(shape, **options)(t) for _ in range(self.count(2, 3))]
        t = self.L.Concatenate(axis=axis)([*inside, t] if self.chance(0.5) else inside)
        ends = [self.close(self.run(t, self.count(0, 2)), self.count(0, 1)) for _ in range(2)]
        return x, self.head(self.dense()(self.L.Concatenate()(ends)))

    def two_inputs(self):
        x, t = self.opening(self.count(10, 20) * 2)
        other = self.keras.Input((self.count(2, 6),))
        a, b = (
            self.close(self.run(t, self.count(1, 3)), 1),
            self.run(self.dense()(other), self.count(0, 2)),
        )
        inputs = [x, other] if self.chance(0.5) else [other, x]
        t = self.dense()(self.L.Concatenate()([a, b] if self.chance(0.5) else [b, a]))
        return inputs, self.head(t)

    def two_outputs(self):
        x, t = self.opening(self.count(10, 20) * 2)
        t = self.close(self.run(t, self.count(1, 3)), 1)
        return x, [self.head(self.dense()(t), "head_a"), self.head(t, "head_0")]

    def nested(self):
        """A model inside a model, one of its layers held."""
        x, t = self.opening(self.count(10, 20) * 2)
        shape = tuple(t.shape[1:])
        inner_x = self.keras.Input(shape)
        inner_t = self.run(inner_x, self.count(1, 3))
        inner = self.keras.Model(inner_x, self.batch_norm(tuple(inner_t.shape[1:]))(inner_t))
        if self.chance(0.5):
            inner.layers[-1].trainable = False
        if self.chance(0.5):
            inner = self.keras.Sequential([self.keras.Input(shape), inner, self.activation()])
        return x, self.head(self.close(inner(t)))

    def starnet(self):
        """StarNet, with fewer pixels and units."""
        x = self.keras.Input((64,))
        t = self.L.Reshape((64, 1))(x)
        t = self.L.Conv1D(4, 8, padding="same", activation="relu")(t)
        t = self.L.Conv1D(16, 8, padding="same", activation="relu")(t)
        t = self.L.Flatten()(self.L.MaxPooling1D(4)(t))
        for units in (16, 8):
            t = self.L.Dense(units, activation="relu")(t)
        return x, self.L.Dense(3, name="head_0")(t)

    def vgg(self):
        x = self.keras.Input((48, 1))
        t = x
        for filters in (2, 4):
            for _ in range(2):
                t = self.L.Conv1D(filters, 3, padding="same", use_bias=False)(t)
                t = self.L.ReLU()(self.L.BatchNormalization()(t))
            t = self.L.Dropout(0.3)(self.L.MaxPooling1D(2)(t))
        t = self.L.Dense(8, activation="elu")(self.L.GlobalAveragePooling1D()(t))
        return x, self.L.Dense(2, name="head_0")(t)


KINDS = (
    "chain",
    "residual",
    "branches",
    "two_inputs",
    "sequential",
    "nested",
    "two_outputs",
    "perceptron",
)


def draw_model(keras, rng, kind, data_format):
    drawn = getattr(Draw(keras, rng, data_format), kind)()
    model = keras.Model(*drawn) if isinstance(drawn, tuple) else drawn
    for weight in model.weights:
        name, shape = weight_kind(weight), tuple(weight.shape)
        if name in ("kernel", "bias", "beta", "moving_mean"):
            scale = 1 / np.sqrt(np.prod(shape[:-1])) if name == "kernel" else 0.3
            weight.assign(scale * rng.normal(size=shape))
        elif name == "gamma":
            weight.assign(1 + 0.3 * rng.normal(size=shape))
        elif name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, shape))
    return model


def weight_kind(weight):
    return getattr(weight, "path", weight.name).rpartition("/")[2].partition(":")[0]


def split_inputs(model, x, reshape):
    """The flat vectors cut into the model's inputs, in their order."""
    shapes = [tuple(t.shape[1:]) for t in model.inputs]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    return [
        reshape(x[:, a:b], (-1, *shape))
        for (a, b), shape in zip(pairwise(ends), shapes, strict=True)
    ]


def n_inputs(model):
    return sum(int(np.prod(t.shape[1:])) for t in model.inputs)


def make_case(keras, path, rng, dtype, kind, data_format, is_legacy):
    """Write the files of one network, and the arrays that symspec should find.

    TensorFlow's moments hold the mean in their derivative, so that second derivatives of
    LayerNormalization are wrong.
    """
    keras.backend.clear_session()
    model = draw_model(keras, rng, kind, data_format)
    x = rng.normal(size=(N_STARS, n_inputs(model))).astype(dtype)
    own = [w for w in model.weights if weight_kind(w) in PARAMETERS]
    of_head = model.get_layer("head_0").weights
    head = [w for w in own if any(w is h for h in of_head)]
    directions = [rng.normal(size=tuple(w.shape)).astype(dtype) for w in own]
    derive = derive_in_tensorflow if is_legacy else derive_in_jax
    found = derive(model, x, own, head, directions, rng)
    model.save(f"{path}.keras")
    model.save(f"{path}.h5")
    model.save_weights(f"{path}_only.weights.h5")
    if is_legacy:
        model.save_weights(f"{path}_only.h5")
    has_norm = any("layer_normalization" in getattr(w, "path", w.name) for w in own)
    products = found.pop("products")
    files = {"v": directions} | ({} if is_legacy and has_norm else {"hv": products})
    for name, arrays in files.items():
        for weight, array in zip(own, arrays, strict=True):
            weight.assign(array)
        model.save(f"{path}_{name}.keras")
    np.savez(f"{path}.npz", x=x, kind=kind, **found)


def derive_in_jax(model, x, own, head, directions, rng):
    import jax
    import jax.numpy as jnp

    trained, fixed = model.trainable_variables, model.non_trainable_variables

    def predict(values, x):
        given = {id(w): value for w, value in zip(own, values, strict=True)}
        lists = [[given.get(id(w), w.value) for w in group] for group in (trained, fixed)]
        inputs = split_inputs(model, x, jnp.reshape)
        y, _ = model.stateless_call(
            *lists, inputs if len(inputs) > 1 else inputs[0], training=False
        )
        y = y if isinstance(y, list | tuple) else [y]
        return jnp.concatenate([part.reshape(len(x), -1) for part in y], axis=1)

    values, x = [w.value for w in own], jnp.asarray(x)
    y = predict(values, x)
    labels = y + rng.normal(size=y.shape).astype(x.dtype)

    def loss(values):
        return 0.5 * jnp.sum((predict(values, x) - labels) ** 2)

    def loss_of_head(flat):
        given, at = list(values), 0
        for w in head:
            size = int(np.prod(w.shape))
            place = next(i for i, o in enumerate(own) if o is w)
            given[place], at = flat[at : at + size].reshape(tuple(w.shape)), at + size
        return loss(given)

    flat = jnp.concatenate([w.value.ravel() for w in head])
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda star: predict(values, star[None])[0])))(x)
    products = jax.jit(lambda v: jax.jvp(jax.grad(loss), (values,), (v,))[1])(
        [jnp.asarray(d) for d in directions]
    )
    hessian = jax.jit(jax.hessian(loss_of_head))(flat)
    return {
        "y": y,
        "labels": labels,
        "jacobian": jacobian,
        "hessian": hessian,
        "products": products,
    }


def derive_in_tensorflow(model, x, own, head, directions, rng):
    import tensorflow as tf

    x = tf.constant(x)

    def predict():
        inputs = split_inputs(model, x, tf.reshape)
        y = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        return tf.concat(
            [tf.reshape(p, (len(x), -1)) for p in (y if isinstance(y, list | tuple) else [y])],
            axis=1,
        )

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = predict()
        # no star sees another
        labels_of_all = [tf.reduce_sum(column) for column in tf.unstack(y, axis=1)]
    jacobian = np.stack([tape.gradient(label, x).numpy() for label in labels_of_all], axis=1)
    labels = y.numpy() + rng.normal(size=y.shape).astype(x.dtype.as_numpy_dtype)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(own)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(own)
            loss = 0.5 * tf.reduce_sum((predict() - labels) ** 2)
        zero = tf.UnconnectedGradients.ZERO
        slopes = inner.gradient(loss, own, unconnected_gradients=zero)
        total = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(slopes, directions, strict=True)])
        of_head = [g for w, g in zip(own, slopes, strict=True) if any(w is h for h in head)]
        of_head = tf.concat([tf.reshape(g, (-1,)) for g in of_head], axis=0)
        entries = tf.unstack(of_head)
    products = outer.gradient(total, own, unconnected_gradients=zero)
    rows = [outer.gradient(entry, head, unconnected_gradients=zero) for entry in entries]
    hessian = np.array([np.concatenate([part.numpy().ravel() for part in row]) for row in rows])
    found = {"y": y.numpy(), "labels": labels, "jacobian": jacobian, "hessian": hessian}
    return found | {"products": [p.numpy() for p in products]}


def make_networks(folder, n, seed, *, dtype, is_legacy):
    """Write `n` networks of one dtype, of each kind in turn."""
    keras = open_keras(is_legacy, dtype)
    named = ("starnet", "vgg")
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        kind = named[i] if i < len(named) else KINDS[i % len(KINDS)]
        # TensorFlow has no channels_first on CPUs
        is_last = is_legacy or kind in named or rng.random() < 0.7
        name = f"{'keras2' if is_legacy else 'keras3'}_{dtype}_{i:03d}"
        print(name, kind, "last" if is_last else "first", flush=True)
        data_format = "channels_last" if is_last else "channels_first"
        make_case(keras, folder / name, rng, dtype, kind, data_format, is_legacy)

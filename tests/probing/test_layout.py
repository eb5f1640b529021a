import jax
import jax.numpy as jnp
import numpy as np

from vanishing import probe


def test_rows_of_scanned_layers_stand_in_forward_order_though_they_are_stored_site_by_site():
    """The size of each row tells which iteration it is of: layer i multiplies by 10."""

    def loss(kernels, x):
        def layer(x, kernel):
            return jnp.abs(x * 10 @ kernel), None

        return jnp.sum(jax.lax.scan(layer, x, kernels)[0])

    trace = probe(loss)(jnp.stack([jnp.eye(2)] * 4), jnp.ones((1, 2))).trace
    layout = trace.layout
    np.testing.assert_allclose(
        trace.forward.rms, [10.0 ** (1 + i.indices[0]) for i in layout.instances], rtol=1e-5
    )
    assert sorted(layout.order(range(0, len(trace), 4))) == list(range(len(trace)))
    assert len(layout.param_names) == 4

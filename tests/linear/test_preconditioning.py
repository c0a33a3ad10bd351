"""K⁻¹ on the input side of the gradient."""

import numpy as np
import pytest
import torch

from hf_immunize.linear.preconditioning import PreconditionedIdentity


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_identity_forward_and_inverse_backward_on_the_input_side(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    k = (x.T @ x) / torch.linalg.matrix_norm(x, 2) ** 2
    inverse = torch.from_numpy(np.linalg.pinv(k.numpy(), rcond=1e-10, hermitian=True))
    weight = torch.randn(shape[1], 3, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape[1], 3, generator=generator, dtype=torch.float64)
    out = PreconditionedIdentity(x)(weight)
    assert torch.equal(out, weight)
    out.backward(upstream)
    assert torch.allclose(weight.grad, inverse @ upstream, rtol=1e-6)

    layer = torch.nn.Linear(shape[1], 3).double()
    plain = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", PreconditionedIdentity(x, layout="out_in"))
    layer(x).square().sum().backward()
    assert torch.allclose(layer.parametrizations.weight.original.grad, plain @ inverse, rtol=1e-6)


def test_identity_refuses_the_wrong_side_of_a_non_square_weight():
    identity = PreconditionedIdentity(torch.eye(4))
    with pytest.raises(ValueError, match="input side"):
        identity(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="layout"):
        PreconditionedIdentity(torch.eye(4), layout="rows")

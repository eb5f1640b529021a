"""One arrangement of the benchmark's sweep in PyTorch; run by versus.py, prints one line of JSON.

python scripts/sweep_torch.py STARTED ARRANGEMENT DEVICE DEPTH WIDTH NETWORKS STEPS CALLS

STARTED is the time at which the process was started, in seconds since the epoch.
"""

import json
import resource
import sys
import time

import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.functional import cross_entropy


def network(depth: int, width: int) -> torch.nn.Sequential:
    """The same multilayer perceptron; its initial weights do not matter to the time."""
    hidden = [(torch.nn.Linear(width, width), torch.nn.Tanh()) for _ in range(depth)]
    return torch.nn.Sequential(*(m for pair in hidden for m in pair), torch.nn.Linear(width, 10))


def eager(model, x, y, compiled: bool):
    """A training step of one network, which returns its gradient norms."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    weights = [module.weight for module in model if hasattr(module, "weight")]

    def loss():
        return cross_entropy(model(x), y)

    def update():
        norms = torch.stack(torch._foreach_norm([weight.grad for weight in weights]))
        optimizer.step()
        return norms

    if compiled:
        loss, update = torch.compile(loss), torch.compile(update)

    def step():
        # a compiled update must find the same tensors again
        optimizer.zero_grad(set_to_none=not compiled)
        loss().backward()
        return update()

    return step


def ensemble(models, x, y):
    """A training step of all networks at once, their parameters stacked."""
    params, buffers = stack_module_state(models)
    params = {name: value.detach() for name, value in params.items()}
    base = models[0].to("meta")

    def loss(params, buffers):
        return cross_entropy(functional_call(base, (params, buffers), (x,)), y)

    gradient = vmap(grad_and_value(loss))
    values = list(params.values())
    momentum = [torch.zeros_like(value) for value in values]
    rates = 1e-3 * (1 + torch.arange(len(models), device=x.device) % 4)
    shaped = [rates.reshape(-1, *[1] * (value.ndim - 1)) for value in values]

    @torch.no_grad()
    def step():
        grads, _ = gradient(params, buffers)
        torch._foreach_mul_(momentum, 0.9)
        torch._foreach_add_(momentum, [grads[name] for name in params])
        torch._foreach_sub_(values, torch._foreach_mul(momentum, shaped))
        weights = [grad for name, grad in grads.items() if name.endswith("weight")]
        return torch.stack([weight.flatten(1).norm(dim=1) for weight in weights])

    return step


def main(started, arrangement, device, depth, width, networks, steps, calls):
    """Time the calls and print the rates, the time of the first result and the memory."""
    place = torch.device("cuda" if device == "gpu" else "cpu")
    wait = torch.cuda.synchronize if device == "gpu" else lambda: None
    torch.manual_seed(0)
    x, y = torch.randn(width, width, device=place), torch.arange(width, device=place) % 10
    if arrangement == "one process per core":
        torch.set_num_threads(1)
    if arrangement == "products":
        matrix = torch.randn(width, width, device=place) / width**0.5

        def call():
            product = matrix
            for _ in range(3 * depth * steps):
                product = product @ matrix

        networks = 1
    elif arrangement == "torch.func":
        step = ensemble([network(depth, width).to(place) for _ in range(networks)], x, y)

        def call():
            return torch.stack([step() for _ in range(steps)]).cpu()

    else:  # one network after another; a few of them show the rate
        networks = min(networks, 2)
        compiled = arrangement == "torch.compile"
        trained = [eager(network(depth, width).to(place), x, y, compiled) for _ in range(networks)]

        def call():
            return [torch.stack([step() for _ in range(steps)]).cpu() for step in trained]

    seconds, first = [], 0.0
    for number in range(calls + 1):
        before = time.perf_counter()
        call()
        wait()
        first = first or time.time() - started
        if number:
            seconds.append(time.perf_counter() - before)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    if device == "gpu":
        memory = torch.cuda.max_memory_allocated() / 1e6
    work = networks * steps
    print(json.dumps({"rates": [work / s for s in seconds], "first": first, "memory": memory}))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:]))

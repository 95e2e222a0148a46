"""The operators and their backends. Knows nothing of diffusion.

One file per operator: schema, reference, fake, autograd, public function. ``backend`` chooses who runs it. Importing this
package loads the native libraries where the installation has them.
"""

from ttune.kernels import (  # noqa: F401  (importing an operator's file defines it)
    backend,
    embedding_lookup,
    inner_products,
    linear_update,
    philox,
    timestep_embedding,
    trajectory_loss,
)

backend.load_native()

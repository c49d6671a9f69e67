"""Kernels by a form of the test's choice."""

from qat.adapters.torch.autograd.kernel_choice import Choices


class Always(Choices):
    """The form of a name, wherever it fits; the plain one elsewhere. ``asked`` has each kernel's name and its form's."""

    def __init__(self, name, gradients="float32"):
        super().__init__(gradients)
        self.name, self.asked = name, []

    def form(self, kernel, args):
        found = kernel.by_name.get(self.name, kernel.forms[0])
        found = found if found.fits(*args) else kernel.forms[0]
        self.asked.append((kernel.name, found.name))
        return found

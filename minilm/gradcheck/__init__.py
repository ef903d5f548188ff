"""Gradient checking for hand-written backward functions, ours or yours. Needs NumPy only.

    def square(x):                          # y, cache
        return x * x, x

    def square_backward(dy, x):             # the gradient, or a tuple of gradients in the order of the arguments
        return 2 * x * dy

    report = gradcheck(square, square_backward, (np.linspace(-1, 1, 5),))
    assert report, report                   # the text names argument, element, both numbers, seed and the call

`check_laws` checks what a number cannot show (linear in dy, repeatable, writes to nothing, dtypes, layouts);
`check_layer` and `check_model` do both for whole layers and models; `strategies` draws inputs with hypothesis.
"""

from minilm.gradcheck.checker import gradcheck as gradcheck
from minilm.gradcheck.laws import LawViolation as LawViolation, check_laws as check_laws
from minilm.gradcheck.layer_checks import check_layer as check_layer, check_model as check_model
from minilm.gradcheck.report import Report as Report, ReportRow as ReportRow

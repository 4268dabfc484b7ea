"""The pages of ``results/``: tables and figures, drawn from the JSON that the measurements left there.

A page is one module here, listed in ``PAGES``; ``scripts/make_results.py`` writes them all, and checks them.
"""

from clipq.pages.assumptions import ASSUMPTIONS
from clipq.pages.claims import CLAIMS
from clipq.pages.codec import CODEC
from clipq.pages.mnist import MNIST
from clipq.pages.page import Page
from clipq.pages.paper_sizes import PAPER_SIZES
from clipq.pages.speed import SPEED

__all__ = ["PAGES", "Page"]

#: In the order of results/README.md.
PAGES: tuple[Page, ...] = (MNIST, CLAIMS, PAPER_SIZES, CODEC, ASSUMPTIONS, SPEED)

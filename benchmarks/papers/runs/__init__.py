"""What the papers' experiments train. Modules here import torch; the process that measures a case imports one of them."""

"""Networks: a backbone, a head, their first weights, and the loss they learn by."""

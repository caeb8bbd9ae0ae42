"""Networks: backbones, heads, initial weights and losses."""

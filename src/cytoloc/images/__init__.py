"""Image files to arrays: decoded whole or refused, brought to 8 bits, scaled, and looked over."""

"""`Solution` to tokens, token trees and batches."""

"""What distillation costs: the loop as the field writes it, this project's, and the pipeline around it, side
by side.
"""

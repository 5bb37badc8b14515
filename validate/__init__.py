"""Does the artifact still answer like the model it came from?"""

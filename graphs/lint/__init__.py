"""What is wrong, slow or large about a graph that anybody exported, told by reading it alone?"""

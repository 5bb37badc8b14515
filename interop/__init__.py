"""Do other people's runtimes read an artifact of ours as our driver does?"""

"""ops"""
def define():
    return ()

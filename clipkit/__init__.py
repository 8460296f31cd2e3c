"""What does a vision-language model understand?"""

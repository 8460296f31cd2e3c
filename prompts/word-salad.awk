# Put the words of all prompts into a random order, and keep the number of words of each prompt.
# The order depends on -v seed=N alone (the generator of Park and Miller, 1988), in every awk.
{ for (i = 1; i <= NF; i++) word[++n] = $i; words[NR] = NF }
END {
  seed = seed % 2147483646 + 1  # the generator stays at 0
  for (i = 1; i <= 10; i++) random(1)  # small seeds begin alike
  for (i = n; i > 1; i--) {
    j = random(i) + 1; kept = word[i]; word[i] = word[j]; word[j] = kept
  }
  for (line = 1; line <= NR; line++) {
    prompt = ""
    for (i = 1; i <= words[line]; i++) prompt = prompt (i > 1 ? " " : "") word[++used]
    print prompt
  }
}
function random(below) { seed = (seed * 16807) % 2147483647; return seed % below }

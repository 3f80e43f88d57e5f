import type { Choice, Context, Option } from "./line.ts";

/** The script for bash. It needs nothing of the `bash-completion` package. */
export function bash(contexts: Context[]): string {
  const withValue = new Set(contexts.flatMap(({ options }) => options.filter(({ value }) => value).map(dashed)));
  return `# Completion of larder for bash, as "larder completion bash" prints it.
_larder() {
  local line=\${COMP_LINE:0:COMP_POINT} word previous value lead command= home= i candidates=
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  word=\${words[\${#words[@]} - 1]}
  previous=\${words[\${#words[@]} - 2]}
  for ((i = 1; i < \${#words[@]} - 1; i++)); do
    case \${words[i]} in
      --home=*) home=\${words[i]#--home=} ;;
      --home) home=\${words[i + 1]}; i=$((i + 1)) ;;
      --serve | --serve=*) command=--serve ;;
      ${[...withValue].filter((flag) => flag !== "--home" && flag !== "--serve").join(" | ")}) i=$((i + 1)) ;;
      -*) ;;
      *) [[ $command ]] || command=\${words[i]} ;;
    esac
  done
  home=\${home/#\\~/$HOME}
  # The word, its flag if it is a flag's value, and what stands before that value in the word itself.
  value=$word lead=
  if [[ $word == --*=* ]]; then previous=\${word%%=*} value=\${word#*=} lead=$previous=; fi
  case $command:$previous in
${contexts.map(bashValues).filter(Boolean).join("\n")}
  esac
  [[ $lead ]] && return
  case $command in
${contexts.map(bashWords).join("\n")}
    *) return ;;
  esac
  if [[ $word == -* ]]; then candidates=$flags; else candidates=$operands; fi
  _larder_offer "$candidates"
}

# Offers those of the words, a line each, that continue what was typed.
_larder_offer() {
  local candidate typed=
  # Of a word that bash splits at a colon or an equals sign, it replaces the last part only.
  if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then typed=\${word%"\${word##*:}"}
  elif [[ $COMP_WORDBREAKS == *=* ]]; then typed=$lead; fi
  COMPREPLY=()
  while IFS= read -r candidate; do
    [[ $candidate && $lead$candidate == "$word"* ]] || continue
    candidate=$lead$candidate
    COMPREPLY+=("\${candidate#"$typed"}")
  done <<<"$1"
}

_larder_references() {
  # On record may be anything, and bash would run what it finds in a word.
  _larder_offer "$("\${words[0]/#\\~/$HOME}" list -q \${home:+--home "$home"} 2>/dev/null | grep -av '[^[:alnum:]_.:/@+-]')"
}

_larder_files() {
  compopt -o filenames 2>/dev/null
  _larder_offer "$(compgen "$1" -- "$value")"
}

complete -F _larder larder
`;
}

// What follows a flag that takes a value, in one context.
function bashValues({ names, options }: Context): string {
  return options
    .filter(({ value }) => value)
    .map((option) => {
      const flags = [dashed(option), ...(option.alias ? [`-${option.alias}`] : [])];
      const at = (names.length > 0 ? names : [""]).flatMap((name) => flags.map((flag) => `${name}:${flag}`));
      return `    ${at.join(" | ")}) ${bashOffer(option.value!)}; return ;;`;
    })
    .join("\n");
}

function bashOffer(choice: Choice): string {
  if (choice === "reference") return "_larder_references";
  if (choice === "file") return "_larder_files -f";
  if (choice === "folder") return "_larder_files -d";
  return choice === "anything" ? ":" : `_larder_offer ${ansiLines(choice)}`;
}

function bashWords({ names, options, operand }: Context, i: number, all: Context[]): string {
  const flags = options.map(dashed);
  const operands = i === 0 ? all.flatMap(({ names }) => names.filter((name) => !name.startsWith("-"))) : operand;
  const pattern = names.length > 0 ? names.join(" | ") : '""';
  const offer = `local flags=${ansiLines(flags)} operands=`;
  if (operands === "reference")
    return `    ${pattern}) ${offer}; if [[ $word != -* ]]; then _larder_references; return; fi ;;`;
  return `    ${pattern}) ${offer}${typeof operands === "string" ? "" : ansiLines(operands)} ;;`;
}

/** The script for zsh: a file `_larder` in a folder of \`fpath\`, or to be sourced. */
export function zsh(contexts: Context[]): string {
  const [root, ...commands] = contexts;
  const listed = commands.flatMap(({ names, summary }) =>
    names.filter((name) => !name.startsWith("-")).map((name) => quote(`${name.replaceAll(":", "\\:")}:${summary}`)),
  );
  return `#compdef larder
# Completion of larder for zsh, as "larder completion zsh" prints it.

_larder() {
  local context state line
  local -a larder_line=("\${words[@]}") larder_commands=(
    ${listed.join("\n    ")}
  )
  typeset -A opt_args
  if (( \${larder_line[(I)--serve*]} && \${larder_line[(I)--serve*]} < CURRENT )); then
    ${zshArguments(commands.find(({ names }) => names[0] === "--serve")!, "    ")}
    return
  fi
  _arguments -C -s -A '-*' \\
    ${zshOptions(root!).join(" \\\n    ")} \\
    '1: :->command' \\
    '*:: :->argument' && return
  case $state in
    command) _describe -t commands command larder_commands ;;
    argument)
      case $words[1] in
${commands
  .filter(({ names }) => names[0] !== "--serve")
  .map((context) => `        ${context.names.join(" | ")})\n          ${zshArguments(context, "          ")} ;;`)
  .join("\n")}
      esac ;;
  esac
}

_larder_references() {
  local -a references home
  local i
  for ((i = 2; i <= $#larder_line; i++)); do
    case $larder_line[i] in
      --home) home=(--home \${\${(Q)larder_line[i+1]}/#\\~/$HOME}) ;;
      --home=*) home=(--home \${\${(Q)larder_line[i]#--home=}/#\\~/$HOME}) ;;
    esac
  done
  references=(\${(f)"$(\${\${(Q)larder_line[1]}/#\\~/$HOME} list -q $home 2>/dev/null)"})
  compadd -a references
}

if [[ $funcstack[1] == _larder ]]; then _larder "$@"; else compdef _larder larder; fi
`;
}

function zshArguments(context: Context, indent: string): string {
  const operand = context.operand === "anything" ? [] : [quote(`*: :${zshAction(context.operand)}`)];
  return `_arguments -s ${[...zshOptions(context), ...operand].join(` \\\n${indent}  `)}`;
}

function zshOptions({ options }: Context): string[] {
  return options.flatMap((option) => {
    const text = `[${option.description.replaceAll(/[\\[\]]/g, "\\$&")}]`;
    const value = option.value ? `:${option.hint.replaceAll(":", "\\:")}:${zshAction(option.value)}` : "";
    const names = [dashed(option), ...(option.alias ? [`-${option.alias}`] : [])];
    const without = option.repeats ? "*" : names.length > 1 ? `(${names.join(" ")})` : "";
    return names.map((name) =>
      quote(`${without}${name}${option.value && name.startsWith("--") ? "=" : ""}${text}${value}`),
    );
  });
}

function zshAction(choice: Choice): string {
  if (choice === "reference") return "_larder_references";
  if (choice === "file") return "_files";
  if (choice === "folder") return "_files -/";
  return choice === "anything" ? " " : `(${choice.join(" ")})`;
}

/** The script for fish. */
export function fish(contexts: Context[]): string {
  const [root, ...commands] = contexts;
  const names = commands.flatMap(({ names }) => names.filter((name) => !name.startsWith("-")));
  return `# Completion of larder for fish, as "larder completion fish" prints it.
function __larder_references
    set -l words (commandline -opc)
    set -l home
    for i in (seq 2 (count $words))
        switch $words[$i]
            case --home
                set home --home $words[(math $i + 1)]
            case '--home=*'
                set home $words[$i]
        end
    end
    command $words[1] list -q $home 2>/dev/null
end

complete -c larder -f
${[
  ...fishOptions(root!, `not __fish_seen_subcommand_from ${names.join(" ")}`),
  ...commands.flatMap((context) => {
    const plain = context.names.filter((name) => !name.startsWith("-"));
    if (plain.length === 0) return fishOptions(context, "__fish_contains_opt serve");
    return [
      ...plain.map(
        (name) =>
          `complete -c larder -n 'not __fish_seen_subcommand_from ${names.join(" ")}' -a ${name} -d ${quote(context.summary)}`,
      ),
      ...fishOptions(context, `__fish_seen_subcommand_from ${plain.join(" ")}`),
    ];
  }),
].join("\n")}
`;
}

function fishOptions({ options, operand }: Context, condition: string): string[] {
  const lines = options.map((option) => {
    const alias = option.alias ? ` -s ${option.alias}` : "";
    const value = option.value ? ` ${fishValue(option.value)}` : "";
    return `complete -c larder -n '${condition}'${alias} -l ${option.name}${value} -d ${quote(option.description)}`;
  });
  if (operand === "anything") return lines;
  const words = operand === "reference" ? "(__larder_references)" : (operand as readonly string[]).join(" ");
  return [...lines, `complete -c larder -n '${condition}' -a '${words}'`];
}

function fishValue(choice: Choice): string {
  if (choice === "reference") return "-x -a '(__larder_references)'";
  if (choice === "file") return "-r -F";
  if (choice === "folder") return "-x -a '(__fish_complete_directories)'";
  return choice === "anything" ? "-x" : `-x -a '${choice.join(" ")}'`;
}

function dashed({ name }: Pick<Option, "name">): string {
  return `--${name}`;
}

// A single-quoted word of any of the three shells; fish, too, ends and begins it so.
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function ansiLines(words: readonly string[]): string {
  return `$'${words.join("\\n")}'`;
}

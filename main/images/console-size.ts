/**
 * The size of the terminal that shows a guest's console. Xen's console ring has no word for it, so the toolstack keeps it in
 * XenStore, and a script in our images watches it there and sets the guest's line, which tells the programs on it.
 */

/** Below the guest's home in XenStore: columns and rows, "80x24". */
export const CONSOLE_SIZE_NODE = "console/size";

/** How the node says a size. */
export function formatConsoleSize({ columns, rows }: { readonly columns: number; readonly rows: number }): string {
  return `${columns}x${rows}`;
}

/** Types of XenStore's messages (xen/io/xs_wire.h). */
const READ = 2;
const WATCH = 4;
const WATCH_EVENT = 15;

const octal = (value: number): string => value.toString(8).padStart(3, "0");
/** Length of texts that end with a zero byte each. */
const lengthOf = (...texts: readonly string[]): string => octal(texts.reduce((sum, text) => sum + text.length + 1, 0));
const WATCH_TOKEN = "size";

/**
 * Argument: the line's device. Speaks XenStore's protocol with the kernel: a header of four words (type, request, transaction,
 * length of what follows) and texts that end with a zero byte. A watch tells once when it is set, so that the first size is
 * read too; before anybody has told one, the node is missing and the answer an error, which is passed over.
 */
export const CONSOLE_SIZE_SCRIPT = `line=$1
exec 3<>/dev/xen/xenbus || exit 0
send() {
  printf "\\\\$1\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\$2\\\\0\\\\0\\\\0$3" >&3
}
send ${octal(WATCH)} ${lengthOf(CONSOLE_SIZE_NODE, WATCH_TOKEN)} '${CONSOLE_SIZE_NODE}\\0${WATCH_TOKEN}\\0'
while header=$(dd bs=16 count=1 <&3 2>/dev/null | od -A n -v -t u4) && [ -n "$header" ]; do
  set -- $header
  text=
  [ "$4" -gt 0 ] && text=$(dd bs="$4" count=1 <&3 2>/dev/null | tr '\\0' ' ')
  case "$1:$text" in
    ${WATCH_EVENT}:*) send ${octal(READ)} ${lengthOf(CONSOLE_SIZE_NODE)} '${CONSOLE_SIZE_NODE}\\0' ;;
    ${READ}:*[!0-9x]*) ;;
    ${READ}:[0-9]*x[0-9]*) stty -F "$line" columns "\${text%%x*}" rows "\${text#*x}" ;;
  esac
done
`;
